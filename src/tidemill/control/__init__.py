"""Says what is live and who may change it: deployments, audit, the keeper, the admin API.

Every change is one transaction with its audit row; nothing here answers a query.
"""

from tidemill.control.records import AuditEntry, RolledBack

__all__ = ["AuditEntry", "RolledBack"]
