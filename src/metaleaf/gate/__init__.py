"""The accuracy gate: do the algorithms still reach what they reached when the baseline was made (docs/gate.md)?"""
