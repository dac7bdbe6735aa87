"""From a question to finished trials: settings, spaces, packs, and the driver that runs them on Ray or here."""
