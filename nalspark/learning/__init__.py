"""Networks that tell candidates apart: tables and tensors, no astronomy."""
