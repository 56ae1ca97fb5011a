"""Order of copies and steps on two streams that only write down what they are asked for; no GPU is needed."""

import dataclasses

import pytest
import torch

from read_cache.streams import ahead, start_copies, to_host


@dataclasses.dataclass
class Event:
    done: set[str]
    """Everything that is over when the event has happened."""
    waited: bool = False

    def synchronize(self) -> None:
        self.waited = True


@dataclasses.dataclass
class Stream:
    """Work is over only where it is known to be: after earlier work of the stream, or after what it waited for."""

    done: set[str] = dataclasses.field(default_factory=set)
    began: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    """By work: what was over when it began."""

    def work(self, name: str) -> None:
        self.began[name] = set(self.done)
        self.done |= {name}

    def wait_stream(self, stream: "Stream") -> None:
        self.done |= stream.done

    def wait_event(self, event: Event) -> None:
        self.done |= event.done

    def record_event(self) -> Event:
        return Event(set(self.done))


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_step_waits_for_its_copy_and_the_next_copy_does_not_wait_for_the_step(count: int) -> None:
    compute, copies = Stream(), Stream()

    def copy(number: int) -> int:
        copies.work(f"copy {number}")
        return number

    found = []
    for number in ahead(range(count), copy, compute, copies):
        found.append(number)
        assert count == number + 1 or f"copy {number + 1}" in copies.began, "the next copy is under way before the step"
        compute.work(f"step {number}")
    assert found == list(range(count))
    for number in range(count):
        assert f"copy {number}" in compute.began[f"step {number}"]
        over = copies.began[f"copy {number}"]
        assert {f"step {earlier}" for earlier in range(number - 1)} <= over, "their memory may be used again"
        assert f"step {number - 1}" not in over, "the copy runs beside the step before it"


def test_copies_to_the_host_wait_for_the_work_before_them_and_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    compute, copies, events = Stream(), Stream(), []
    monkeypatch.setattr(copies, "record_event", lambda: events.append(Event(set(copies.done))) or events[-1])
    like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda values, device, pin_memory: like(values, device=device))
    values = {"a": torch.arange(6), "b": torch.ones(2, 3)}
    compute.work("forward")
    finish = start_copies(values, compute, copies)
    assert copies.done == {"forward"}
    assert not events[0].waited
    found = finish()
    assert events[0].waited
    assert all(torch.equal(found[name], values[name]) and found[name] is not values[name] for name in values)


def test_tensors_of_the_host_are_not_copied() -> None:
    values = {"a": torch.arange(6)}
    assert to_host(values)()["a"] is values["a"]
