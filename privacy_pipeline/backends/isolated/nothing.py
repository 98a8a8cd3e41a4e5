"""Program that does nothing: it shows whether a build can be started."""


def main() -> None:
    """Run the program."""
