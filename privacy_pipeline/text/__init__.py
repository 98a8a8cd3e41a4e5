"""Text that people, data and other programs gave: compared, shown, quoted, with passwords covered."""
