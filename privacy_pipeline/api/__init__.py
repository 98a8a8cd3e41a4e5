"""What the commands do after parsing their arguments, for Python and for the command line alike. Nothing is printed.

`privacy_pipeline` exports the functions; this package exports what they return and raise.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
