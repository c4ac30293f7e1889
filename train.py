"""Train one model, or a sweep with -m: `python train.py pooling=gem data=folder data.root=DIR`."""

from omegaconf import DictConfig

from retrieval import config


@config.main("train")
def main(cfg: DictConfig) -> None:
    from retrieval import launch, processes, results, training

    rows = launch.launched(training.fit, cfg)
    if processes.first():
        print(results.printed(rows), f"written to {cfg.output_dir}", sep="\n")


if __name__ == "__main__":
    main()
