"""Region proposals: an image in, candidate boxes out."""
