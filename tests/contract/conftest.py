"""A tiny split that went through a real tf.Transform graph; made by the helpers of the backends' own tests."""

from tests.backends.conftest import split  # noqa: F401
