"""The audit log: records in a chain, so that none can be changed, taken out or cut off unseen. Pure."""
