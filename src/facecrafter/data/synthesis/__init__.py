"""People who do not exist: a published face generator, directions in its style space, and labelled images of both."""
