"""What is logged, averaged, judged and guarded while training."""

from retrieval.callbacks.averaging import AveragedWeights as AveragedWeights
from retrieval.callbacks.exponent import PoolingExponent as PoolingExponent
from retrieval.callbacks.guard import Guard as Guard
from retrieval.callbacks.judging import Evaluate as Evaluate
from retrieval.callbacks.judging import HeldOut as HeldOut
from retrieval.callbacks.loggers import WandbLogger as WandbLogger
from retrieval.callbacks.waiting import Waiting as Waiting
