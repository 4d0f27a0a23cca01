from .averaging import AveragedWeights as AveragedWeights
from .averaging import ExponentialMovingAverage as ExponentialMovingAverage
from .best_checkpoint import BestCheckpoint as BestCheckpoint
from .last_checkpoint import LastCheckpoint as LastCheckpoint
from .machine import MachineUse as MachineUse
from .predictions import ShowPredictions as ShowPredictions
from .progress import TrainingProgress as TrainingProgress
