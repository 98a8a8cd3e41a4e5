"""What crosses from the build of a user's model: configurations and graphs."""
