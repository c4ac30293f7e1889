"""Train, benchmark and export image descriptors for landmark retrieval."""

import sys

from retrieval.extras import Extras

sys.meta_path.append(Extras())
