"""SEA-LION, end to end: from a crawl to a promoted regional language model, every step on record."""

__version__ = "0.1.0"
