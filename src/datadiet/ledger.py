"""The cost ledger while it runs: one clock that is always in exactly one account.

Measuring each part on its own leaves gaps (data loading, reload, checkpointing) that nobody counts. Here every moment
since the start belongs to one account, so the parts add up to the total by construction.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from datadiet.types import CostLedger

Account = Literal["load", "train", "score", "select", "probe", "eval", "save"]
ACCOUNTS: tuple[Account, ...] = get_args(Account)


class Ledger:
    """Seconds by account, and examples and tokens by direction.

    Args:
        started: `time.perf_counter()` at the moment the clock is to start from; now by default. The command line
            passes a moment before its imports.
        account: Receives the time outside `charge`.

    Examples:
        >>> ledger = Ledger()
        >>> with ledger.charge("train"):
        ...     with ledger.charge("score"):  # taken out of train while it lasts
        ...         pass
        >>> cost = ledger.snapshot()
        >>> abs(sum(getattr(cost, f"{account}_s") for account in ACCOUNTS) - cost.total_s) < 1e-9
        True
    """

    def __init__(self, started: float | None = None, account: Account = "load") -> None:
        self._started = self._since = time.perf_counter() if started is None else started
        self._account: Account = account
        self._seconds: dict[Account, float] = dict.fromkeys(ACCOUNTS, 0.0)
        self._carried = self._shared = 0.0
        self.examples_forward = self.examples_backward = self.tokens_forward = self.tokens_backward = 0
        self.tokens_padded = 0

    @contextmanager
    def charge(self, account: Account) -> Iterator[None]:
        """Charge the time of a block to an account; nested blocks take their time out of the outer one."""
        outer = self._account
        self._switch(account)
        try:
            yield
        finally:
            self._switch(outer)

    def charge_shared(self, seconds: float) -> None:
        """Charge the running account for the work of an earlier run whose results this one reuses.

        Args:
            seconds: At least 0; they count in `total_s` and, to be recognisable, in `shared_s`.
        """
        self._seconds[self._account] += seconds
        self._carried += seconds
        self._shared += seconds

    def move(self, source: Account, target: Account, seconds: float) -> None:
        """Charge seconds to another account than the one that was running, once it is known whose they are."""
        self._seconds[source] -= seconds
        self._seconds[target] += seconds

    def include(self, cost: CostLedger) -> None:
        """Replace the time of a run that has just ended by its accounts.

        Args:
            cost: Of a run whose own time (all but `shared_s`) went to the account that is running here.
        """
        self._switch(self._account)
        self._seconds[self._account] -= cost.total_s - cost.shared_s
        self.carry(cost)
        self._carried -= cost.total_s - cost.shared_s  # this clock has run meanwhile

    def _switch(self, account: Account) -> None:
        now = time.perf_counter()
        self._seconds[self._account] += now - self._since
        self._since, self._account = now, account

    def count_training(self, examples: int, tokens: int, padded: int = 0) -> None:
        """Count a training batch: one forward and one backward each; `padded` are its positions, padding included."""
        self.examples_forward += examples
        self.examples_backward += examples
        self.tokens_forward += tokens
        self.tokens_backward += tokens
        self.tokens_padded += padded

    def count_scoring(self, examples: int, tokens: int) -> None:
        """Count a batch of a scoring pass: forward only."""
        self.examples_forward += examples
        self.tokens_forward += tokens

    def seconds(self, account: Account) -> float:
        """Seconds charged to one account up to now."""
        self._switch(self._account)
        return self._seconds[account]

    def snapshot(self) -> CostLedger:
        """Everything up to now."""
        self._switch(self._account)
        spent = self._seconds
        return CostLedger(
            **{f"{account}_s": seconds for account, seconds in spent.items()},
            total_s=self._since - self._started + self._carried,
            finetune_s=spent["train"] + spent["score"] + spent["select"] + spent["probe"],
            shared_s=self._shared,
            examples_forward=self.examples_forward,
            examples_backward=self.examples_backward,
            tokens_forward=self.tokens_forward,
            tokens_backward=self.tokens_backward,
            tokens_padded=self.tokens_padded,
        )

    def carry(self, earlier: CostLedger) -> None:
        """Add the costs of an interrupted run up to its checkpoint, so that a resumed run reports both."""
        for account in self._seconds:
            self._seconds[account] += getattr(earlier, f"{account}_s")
        self._carried += earlier.total_s
        self._shared += earlier.shared_s
        self.examples_forward += earlier.examples_forward
        self.examples_backward += earlier.examples_backward
        self.tokens_forward += earlier.tokens_forward
        self.tokens_backward += earlier.tokens_backward
        self.tokens_padded += earlier.tokens_padded
