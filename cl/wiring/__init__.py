"""From gin files to the objects of a run. Every mistake in a configuration is found before anything is built.

- `values`: what can stand to the right of `=`.
- `statements`: the lines of the files as bindings; parsed, never executed.
- `components`: what can be named in a config, and its parameters.
- `fits`: whether a value is what an annotation asks for.
- `settle`: which binding of a parameter holds, and whether everything it names exists.
- `tree`: what the root builds, parameter by parameter.
- `unused`: bindings that nothing takes up.
- `wiring`: all of it in order, and the building.
"""

from cl.wiring.wiring import Wiring, read

__all__ = ["Wiring", "read"]
