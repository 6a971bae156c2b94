"""Networks and their weights: cards (what a user may know), the catalogue (how a name becomes a network), families."""
