"""Train one model, or a sweep with -m: `python train.py pooling=gem data=folder data.root=DIR`."""

from omegaconf import DictConfig

from retrieval import config


@config.main("train")
def main(cfg: DictConfig) -> float | None:
    from retrieval import launch, processes, results, training

    if cfg.dry_run:
        from retrieval.sweep import cost

        print(cost.table([cfg], [{}], "train"))
        return None
    rows = launch.launched(training.fit, cfg)
    if processes.first():
        print(results.printed(rows), f"written to {cfg.output_dir}", sep="\n")
    return results.objective(rows)


if __name__ == "__main__":
    main()
