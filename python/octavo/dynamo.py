"""Capture under torchdynamo's name: ``import octavo.dynamo as torchdynamo``."""

from octavo.capture import *  # noqa: F403
from octavo.capture import __all__  # noqa: F401
