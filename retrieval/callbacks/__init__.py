"""What is logged, averaged and judged while training."""

from retrieval.callbacks.averaging import AveragedWeights as AveragedWeights
from retrieval.callbacks.exponent import PoolingExponent as PoolingExponent
from retrieval.callbacks.judging import HeldOut as HeldOut
from retrieval.callbacks.loggers import WandbLogger as WandbLogger
