"""`python -m retrieval.export run=DIR 'format=[safetensors,onnx]'`; the keys are in configs/export.yaml."""

from omegaconf import DictConfig

from retrieval import config
from retrieval.terminal import printable


@config.main("export")
def main(cfg: DictConfig) -> None:
    from retrieval.export import command

    folder, rows = command.export(cfg)
    print(
        command.printed(rows),
        printable(f"written to {folder}, each checked against the model; what it is: README.md"),
        sep="\n",
    )


if __name__ == "__main__":
    main()
