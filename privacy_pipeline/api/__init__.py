"""What the commands do after parsing their arguments, for Python and for the command line alike. Nothing is printed."""
