"""Where experiments run, a module for each place: `here`, in this process, one after another."""

from launch.here import launch

__all__ = ["launch"]
