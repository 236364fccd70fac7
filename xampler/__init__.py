"""XAMPLER: label text in 500+ languages from English examples."""

from importlib.metadata import version

__version__ = version("xampler")
