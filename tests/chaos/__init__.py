"""Faults by the thousand on real services and databases; what must hold is asked of the database and of a ledger beside it."""
