"""What puts load on a broker: processes of their own, on the other core."""
