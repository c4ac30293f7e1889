"""Train one model, or a sweep with -m: `python train.py pooling=gem data=folder data.root=DIR`."""

import sys

from retrieval import cli

if __name__ == "__main__":
    sys.exit(cli.main(["train", *sys.argv[1:]]))
