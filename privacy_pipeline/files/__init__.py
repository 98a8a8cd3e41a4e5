"""Files: written whole or not at all, read no further than they can be long, kept from others."""
