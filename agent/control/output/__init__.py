"""What programs of `shoal run --logs` say: the last of it, and who asks all agents for theirs."""
