"""Judge a run, or any backbone and pooling off the shelf: `python eval.py run=DIR benchmark=folder ...`."""

from omegaconf import DictConfig

from retrieval import config


@config.main("eval")
def main(cfg: DictConfig) -> None:
    from retrieval import evaluation, results

    rows = evaluation.from_config(cfg, config.overridden())
    if rows:  # of several processes the first one judges
        print(results.printed(rows), f"written to {cfg.run or cfg.output_dir}", sep="\n")


if __name__ == "__main__":
    main()
