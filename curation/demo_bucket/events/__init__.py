"""Clips of events that are seen and heard at once, with words that tell them apart."""

from curation.demo_bucket.events.clip import event_clip, stage_event
from curation.demo_bucket.events.design import EVENT_SHAPE, Event, event_design
from curation.demo_bucket.events.stage import Staged

__all__ = ["EVENT_SHAPE", "Event", "Staged", "event_clip", "event_design", "stage_event"]
