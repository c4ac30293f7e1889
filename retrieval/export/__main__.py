"""`python -m retrieval.export run=DIR 'format=[safetensors,onnx]'`; the keys are in configs/export.yaml."""

from omegaconf import DictConfig

from retrieval import config
from retrieval.terminal import printable


@config.main("export")
def main(cfg: DictConfig) -> None:
    from retrieval import first_lines
    from retrieval.terminal import say

    config.begin(first_lines.of_export(cfg), cfg)
    from retrieval.export import command

    folder, rows = command.export(cfg)
    say(command.printed(rows))
    say(printable(f"written to {folder}, each checked against the model; what it is: README.md"))


if __name__ == "__main__":
    main()
