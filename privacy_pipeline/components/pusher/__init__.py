"""Pusher that shows a model to servers only when it is whole."""
