"""A decoder and an encoder trained from scratch, measured from their first step on."""
