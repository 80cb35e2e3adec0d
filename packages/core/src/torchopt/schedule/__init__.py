"""Schedules: functions from the number of steps taken to a value such as a learning rate.

A schedule takes a 0-dim float64 tensor or a number and returns a 0-dim tensor. Every number that a
schedule is made of may be a 0-dim tensor that requires grad.
"""

from torchopt.schedule.constant import constant_schedule as constant_schedule
from torchopt.schedule.cosine import cosine_decay_schedule as cosine_decay_schedule
from torchopt.schedule.exponential import exponential_decay as exponential_decay
from torchopt.schedule.joined import join_schedules as join_schedules
from torchopt.schedule.piecewise import cosine_onecycle_schedule as cosine_onecycle_schedule
from torchopt.schedule.piecewise import linear_onecycle_schedule as linear_onecycle_schedule
from torchopt.schedule.piecewise import piecewise_constant_schedule as piecewise_constant_schedule
from torchopt.schedule.piecewise import (
    piecewise_interpolate_schedule as piecewise_interpolate_schedule,
)
from torchopt.schedule.polynomial import linear_schedule as linear_schedule
from torchopt.schedule.polynomial import polynomial_schedule as polynomial_schedule
from torchopt.schedule.warmup import sgdr_schedule as sgdr_schedule
from torchopt.schedule.warmup import warmup_constant_schedule as warmup_constant_schedule
from torchopt.schedule.warmup import warmup_cosine_decay_schedule as warmup_cosine_decay_schedule
from torchopt.schedule.warmup import (
    warmup_exponential_decay_schedule as warmup_exponential_decay_schedule,
)
from torchopt.schedule.warmup import warmup_linear_decay_schedule as warmup_linear_decay_schedule

__all__ = [
    'constant_schedule',
    'cosine_decay_schedule',
    'cosine_onecycle_schedule',
    'exponential_decay',
    'join_schedules',
    'linear_onecycle_schedule',
    'linear_schedule',
    'piecewise_constant_schedule',
    'piecewise_interpolate_schedule',
    'polynomial_schedule',
    'sgdr_schedule',
    'warmup_constant_schedule',
    'warmup_cosine_decay_schedule',
    'warmup_exponential_decay_schedule',
    'warmup_linear_decay_schedule',
]
