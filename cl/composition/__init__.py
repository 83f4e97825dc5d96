"""Every mix of encoder, provider, loss, grouping and hooks: each trains, or is refused by a rule with a sentence.

The parts are those that are registered; a component added later is in the matrix by itself. Networks are linear and
data made up, so a mix takes milliseconds.

- `toys`: the networks and the data.
- `parts`: what is registered, and the ways to build it.
- `mixes`: the mixes, and what becomes of each.
- `page`: the table that a person reads.
"""
