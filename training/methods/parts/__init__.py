"""The parts that methods are composed of; a part is a pure function or a small frozen object.

Parts that draw something (guidance, where a trajectory begins) get uniform numbers from outside, so that a step does
not depend on how its samples are spread over processes.
"""
