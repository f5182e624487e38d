"""One function per stage of the workflow: reads sealed stores, calls the rooms to the left, writes sealed stores."""
