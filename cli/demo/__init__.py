"""`liveroom demo`: viewers, senders, the ledger's verdict, the screen, and the surge."""
