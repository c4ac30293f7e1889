"""Judge a run, or any backbone and pooling off the shelf: `python eval.py run=DIR benchmark=folder ...`."""

import sys

from retrieval import cli

if __name__ == "__main__":
    sys.exit(cli.main(["eval", *sys.argv[1:]]))
