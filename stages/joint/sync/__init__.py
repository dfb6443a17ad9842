"""How far sound and lips are apart: by SyncNet, or by the mouth's opening."""
