"""The branches of the library, and their staff."""

from django.db import models


class Branch(models.Model):
    """Half of a cycle: a branch has a manager, who works at a branch. The two tables cannot be ordered."""

    name = models.CharField(max_length=100)
    manager = models.ForeignKey(
        "testdb_demo.Staff", on_delete=models.SET_NULL, null=True, blank=True, related_name="manages"
    )

    class Meta:
        app_label = "testdb_demo"
        verbose_name_plural = "branches"

    def __str__(self) -> str:
        return self.name


class Staff(models.Model):
    """The other half of the cycle, with a foreign key that is not nullable."""

    name = models.CharField(max_length=100)
    branch = models.ForeignKey(Branch, on_delete=models.PROTECT, related_name="staff")

    class Meta:
        app_label = "testdb_demo"
        verbose_name_plural = "staff"

    def __str__(self) -> str:
        return self.name
