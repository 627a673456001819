"""What runs any scenario: tables, processes, turns and rounds. It knows no library by name."""
