"""
An exchange that misbehaves on purpose: a process of its own, in the dialect of Binance spot.

``python -m shockproof.demo.venue --help`` says how to run it by hand; ``VenueProcess`` runs it for a
program. Prices, matching, ledger and fault plan are pure modules; only the server files do I/O.
"""
