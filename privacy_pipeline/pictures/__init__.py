"""Pictures and tables for pages and notebooks: lines, dots and labels as SVG, cells as HTML. No TensorFlow."""
