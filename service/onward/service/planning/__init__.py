"""What a deployment takes, computed from figures that the benchmarks measured: `onward-service plan`."""

from onward.service.planning.demand import Demand
from onward.service.planning.plan import Plan, plan
from onward.service.planning.prices import PriceError, Prices, read_prices
from onward.service.planning.report import lines

__all__ = ["Demand", "Plan", "PriceError", "Prices", "lines", "plan", "read_prices"]
