"""Demand: what a deployment has to carry."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """What a deployment has to carry; each request stores one event and is answered with 20 items."""

    items: int
    users: int
    """Users in a day."""
    rate_per_s: float
    """Requests a second at the peak."""
    peak_to_mean: float = 3.0
    """The rate at the peak divided by the mean of a day."""
    events_per_session: float = 5.0
    seconds_between_events: float = 60.0
    session_ttl_s: float = 1800.0
    """How long the store keeps a session, and its answers, after its last request."""
    dimension: int = 64
    """Numbers of an item's vector."""
    cores: int = 4
    """Of a replica; it has a worker for each."""
    training_days: int = 30
    """Days of the event log that a training reads, at most."""
    max_training_events: int = 20_000_000
    """Events that a training reads at most: the newest ones."""
    epochs: int = 10
    log_days: int = 90
    """Days that the event log is kept."""

    @property
    def mean_rate_per_s(self) -> float:
        """Requests a second in the mean of a day."""
        return self.rate_per_s / self.peak_to_mean

    @property
    def live_sessions(self) -> float:
        """Sessions that the store holds at the peak (Little's law): the rate of sessions times how long one stays."""
        seconds = (self.events_per_session - 1) * self.seconds_between_events + self.session_ttl_s
        return min(float(self.users), self.rate_per_s / self.events_per_session * seconds)

    @property
    def events_per_day(self) -> float:
        """Events, and answers, of a day."""
        return self.mean_rate_per_s * 86_400

    @property
    def training_events(self) -> float:
        """Events that a training reads."""
        return min(self.events_per_day * self.training_days, float(self.max_training_events))
