"""The studio: a local page and an API, on which a face is made to turn, smile and calm down."""
