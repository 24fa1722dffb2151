"""Official scoring protocols; never sees an image or a network."""
