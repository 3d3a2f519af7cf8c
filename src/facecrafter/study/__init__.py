"""User studies: people choose among images of several methods, and what their choices say.

The study of the paper is the default: five questions, 30 sets of images each, five sets a participant and question.
"""
