"""Stage 7, LOAD: batches for training, from raw batches of the core to what a step takes.

One module per stage, each used in one line by the loader; none knows the others but
``threads``, which runs Python functions ahead of whoever asks.
"""

from lanceloader.loading.finishing import Finish
from lanceloader.loading.loader import Loader
from lanceloader.loading.served import Rows, Served
from lanceloader.loading.share import Share
from lanceloader.loading.steps import Steps
from lanceloader.loading.transforming import Policy

__all__ = ["Finish", "Loader", "Policy", "Rows", "Served", "Share", "Steps"]
