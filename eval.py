"""Judge a run, or any backbone and pooling off the shelf: `python eval.py run=DIR benchmark=folder ...`."""

from omegaconf import DictConfig

from retrieval import config


@config.main("eval")
def main(cfg: DictConfig) -> float | None:
    from retrieval import evaluation, results

    if cfg.dry_run:
        from retrieval.sweep import cost

        print(cost.table([cfg], [{}], "eval"))
        return None
    rows = evaluation.from_config(cfg, config.overridden())
    if rows:  # of several processes the first one judges
        print(results.printed(rows), f"written to {cfg.run or cfg.output_dir}", sep="\n")
    return results.objective(rows)


if __name__ == "__main__":
    main()
