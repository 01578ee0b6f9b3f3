"""A network of one's own machines: who belongs, where they are, who tells whom (docs/mesh.md)."""
